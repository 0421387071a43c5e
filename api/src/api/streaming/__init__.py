"""Open connections that follow a task, whichever door they came through: kept alive, cut when dead, told farewell."""
