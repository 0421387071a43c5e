"""The readers of streams, whichever door they came through: kept alive, cut when dead, told farewell. Knows no HTTP."""
