"""Moving over from other programs: reading what they keep, and taking over their grants."""
