"""Networks: built, given weights, cut into layer groups, laid out in memory; and what they compute on."""
