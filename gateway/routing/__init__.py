"""Which of two models a prompt needs: the gain of the stronger one is predicted, and set against a threshold."""
