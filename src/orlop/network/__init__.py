"""Networks of containers: drivers, addresses, published ports, firewall rules."""
