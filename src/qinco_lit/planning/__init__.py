"""What a job on a whole data set will take, from a short measurement here."""
