"""Charts as inline SVG, coloured by the CSS variables of the page."""
