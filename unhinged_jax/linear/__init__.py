"""What every linear dynamics has, simulated or solved: spectrum, leading part, row space, compression."""
