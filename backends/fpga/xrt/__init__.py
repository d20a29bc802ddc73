"""What hetcc knows of the Xilinx Runtime: containers, the driver, and three devices that stand behind it."""
