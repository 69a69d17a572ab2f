"""The CPU decoder in C++: one call runs one step for any mix of sequences, exactly alike in every company."""
