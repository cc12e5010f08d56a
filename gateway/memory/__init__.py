"""What agents remember together: records with provenance in two times, under the policy of every other action."""
