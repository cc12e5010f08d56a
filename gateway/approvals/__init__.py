"""Calls that wait for people: what policy holds is a ticket until enough of the right people agreed to exactly it."""
