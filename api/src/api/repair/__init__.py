"""What puts right tasks of dead workers, lost messages and lost results."""
