"""What HTTP doors share: who is calling, reading a body, and how answers and errors go out as replies."""
