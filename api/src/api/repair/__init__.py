"""What puts right tasks of dead workers and lost messages."""
