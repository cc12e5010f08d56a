"""What is A2A of a call, a task and a card: pure values and rules, without a transport (A2A 1.0)."""
