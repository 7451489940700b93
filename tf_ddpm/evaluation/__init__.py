"""Figures of merit: how they are computed, and the receipts they come with."""
