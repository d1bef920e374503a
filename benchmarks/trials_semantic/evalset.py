from common import *
import cv2, pandas as pd
from grepq_metric.images import read_image
import sys; sys.path.insert(0,'/work/main')
D=Path('/work/shared/data/biq2021_dev')
lab=pd.read_csv(D/'labels.csv'); print(lab.columns.tolist(), len(lab))
print(lab.head(3))
xs=[(read_image(D/'images'/Path(f).name)*255).round().byte() for f in lab.iloc[:,0]]
print({tuple(x.shape) for x in xs})
torch.save((xs,lab),'dev.pt')
from benchmarks.studies.synthetic import distortions
from benchmarks.harness.toy import references, LEVELS
import albumentations as A, piq
from grepq_metric.training.similarity import pairwise_fsim
rows=[];ims=[]
for n,(name,ph) in enumerate(references().items()):
    ref=torch.from_numpy(ph).permute(2,0,1)
    rows.append((name,'none',0,1.0));ims.append(ref)
    for kind,make in distortions().items():
        for l in LEVELS:
            y=torch.from_numpy(A.Compose([make(l)],seed=100*n+l)(image=ph)['image']).permute(2,0,1)
            f=pairwise_fsim(torch.stack([ref,y]).float()/255,False)[0,1].item()
            rows.append((name,kind,l,f)); ims.append(y)
torch.save((ims,rows),'syn.pt'); print('syn',len(ims))
