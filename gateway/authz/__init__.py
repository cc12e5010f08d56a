"""Authorization: the question put to policy, the judgement of its answer, and the obligations of a permit."""
