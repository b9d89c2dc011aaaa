"""What is read of a model: headers of safetensors files, and the configs of a folder."""
