//! Every counter and histogram, declared once.
