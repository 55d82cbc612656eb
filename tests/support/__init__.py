"""What tests share: made-up surroundings, real processes, faults, and stand-ins for programs that are not here."""
