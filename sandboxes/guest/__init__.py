"""Programs that run inside a box, before or beside the program it is for. They import nothing of ours."""
