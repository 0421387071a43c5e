"""What every door does with tasks: start, look up, cancel. Knows neither HTTP nor JSON-RPC."""
