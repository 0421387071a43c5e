"""The door `/stream/{taskId}`: a task's events as Server-Sent Events."""
