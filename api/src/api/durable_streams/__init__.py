"""The door `/v1/streams/{taskId}`: a task's log as clients of the Durable Streams protocol read it, and read only."""
