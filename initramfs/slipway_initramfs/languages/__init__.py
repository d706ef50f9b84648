"""Languages: their files, recipes and the catalogue that finds them."""
