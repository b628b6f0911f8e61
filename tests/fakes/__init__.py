"""Scripted upstreams for tests."""
