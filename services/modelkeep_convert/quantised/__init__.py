"""Quantised weights on their way from files to what is lent: dequantised, or as they are stored."""
