"""The rig that faults, charts, bench and k8s-tests share: real processes, and checkers of what they did."""
