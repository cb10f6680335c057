"""What has to do with Ray itself: starting, joining and leaving it, and what it says."""
