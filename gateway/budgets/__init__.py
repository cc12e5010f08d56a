"""What calls may spend: reserved before their effect, settled after it, kept by a lease in between."""
