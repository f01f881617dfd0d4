"""The version of atras, and of what it writes."""

__version__ = "0.3.0"

SCHEMA = 6
"""Number of the schema of a run's frames, its run.json and search.json. 1 had `adaptive` for `white-box`, other columns
for attacks, and an attack's options among those of the run; 2 had distances averaged over all images, no balanced
accuracy, no counts of images without a gradient, and example images in the header of a checkpoint; 3 had no outcomes
image by image, norms in the spelling of attacks alone, transfer between networks of one phase and seed alone, and
examples of FGSM alone; 5 had no accuracies under attack in the history."""
