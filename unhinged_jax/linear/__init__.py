"""What simulations and closed forms of a linear dynamics share: spectrum, leading part, row space, compression."""
