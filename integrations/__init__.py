"""Programs of other people that are clients of Headrace, as their users run them."""
