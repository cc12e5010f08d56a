"""Where memory is kept: the store of record, and the indexes of its vectors that can be made again from it."""
