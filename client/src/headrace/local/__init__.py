"""`headrace up`: the processes of a local stack, started, watched and stopped."""
