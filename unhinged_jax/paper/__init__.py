"""The paper's numerical experiments, repeated."""
