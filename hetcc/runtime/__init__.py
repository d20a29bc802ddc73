"""Running a bundle: on emulated devices here, on real ones where they exist."""
