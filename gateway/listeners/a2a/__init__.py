"""The A2A edge: requests of peers become calls, results and events become their answers."""
