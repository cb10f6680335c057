"""What travels between a caller and a worker; knows neither end."""
