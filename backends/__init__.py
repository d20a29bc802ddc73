"""What runs the regions: GPU, FPGA, host. ``contract`` says what each back end answers."""
