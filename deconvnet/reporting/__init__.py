"""Reports: one HTML file with everything in it, a gallery of labelled images above all."""
