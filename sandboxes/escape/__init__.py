"""The escape suite: what an attacker who runs code in a box would try, as a program and as a list."""
