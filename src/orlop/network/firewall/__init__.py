"""Firewall backends behind one contract."""
