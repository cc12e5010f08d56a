"""The model APIs of a whole gateway: real clients on one side, providers on loopback on the other."""
