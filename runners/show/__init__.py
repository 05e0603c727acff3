"""runner=show: a plan and a calibration as pictures and pages."""
