"""What a node lacks, or what will not work on it as asked, with the mend for each."""
