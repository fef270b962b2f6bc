"""Particles in tomograms of copick projects: segment, localize, evaluate."""
