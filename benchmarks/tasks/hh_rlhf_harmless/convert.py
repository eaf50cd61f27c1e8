"""HH-RLHF, harmless: the pairs of one file, converted like the helpful ones."""

from sources import load

convert = load("hh_rlhf").convert
