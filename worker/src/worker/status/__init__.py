"""What a worker tells others of itself: probes, metrics, its announcements, its pod's deletion cost."""
