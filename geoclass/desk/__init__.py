"""The labelling desk: a page on which people look at tiles and label them, and a head that learns from their
answers."""
