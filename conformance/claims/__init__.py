"""What Interlock claims of the protocol, by revision of the specification, each claim with where it is written."""
