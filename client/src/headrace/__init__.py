"""Client, command line and local stack of Headrace."""
