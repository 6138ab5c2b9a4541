"""`ftkit export`: a trained model written in another format, and compared with what was written."""
