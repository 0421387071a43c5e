"""The door `/v1/responses` and `/v1/conversations`: stored answers, told by any replica from their tasks' logs."""
